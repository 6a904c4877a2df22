/* Call sites of rewritten text; see sites.c. */
#ifndef PSB_PLAN_SITES_H
#define PSB_PLAN_SITES_H

#include "proc.h"

struct image_sites {
	struct psb_plan_image image;
	const struct psb_plan_site *site; /* image.nsites, in the order of vaddr */
};

/* The sites of a region's image, NULL when there are none to be read. Lock of the mm held. */
const struct image_sites *sites_of_region(struct proc *p, const struct region *g);
/* The address a program is shown for this RIP: that of its own text if it stands in a trampoline, else the same. */
u64 site_shown(struct proc *p, u64 rip);
/* Where to go on for a RIP that the program gives: into the trampoline if a jump was written over that place, else the same. */
u64 site_executed(struct proc *p, u64 rip);

#endif
