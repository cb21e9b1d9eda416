// Scaling says how large an installation has to be for 1,000 to 1,000,000,000 deliveries a day,
// and what decides it. The sizes come from a model of a few measured costs (model.go). A
// simulation of each size at its busiest time (simulate.go) checks that the model is right: that
// nothing queues up, and how long a mail takes.
//
//	go run ./bench/scaling
//
// The table in docs/scaling.md is its output.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := Report(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "scaling:", err)
		os.Exit(1)
	}
}
