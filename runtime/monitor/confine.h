/* The monitor's own seccomp filter. */
#ifndef PSB_CONFINE_H
#define PSB_CONFINE_H

/* Installs it for this process and all its descendants; no_new_privs must be set. Fatal when it cannot be installed. */
void confine(void);
/* Ends the process by the filter: SIGSYS, for pid 1 of a namespace too. Returns only where there is no filter. */
void confine_kill_process(void);

#endif
