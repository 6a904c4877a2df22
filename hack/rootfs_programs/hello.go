// A static Go program: its own system calls, its own threads and signals, its own stacks.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
)

func main() {
	var group sync.WaitGroup
	sums := make(chan int, 8)
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			sum := 0
			for i := 0; i < 1000; i++ {
				sum += i * worker
			}
			sums <- sum
		}(worker)
	}
	group.Wait()
	close(sums)
	total := 0
	for sum := range sums {
		total += sum
	}
	fmt.Printf("go: %d, arguments: %d\n", total, len(os.Args)-1)

	out, err := exec.Command("/bin/echo", "from a child").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("go: %s", out)
}
