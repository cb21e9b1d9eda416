package harness

import (
	"context"
	"fmt"
	"os"
	"os/signal"
)

// Main runs a program until it ends or is interrupted, also by one of the other signals, and
// exits with 1 after an error, which it prints behind the program's name.
func Main(name string, run func(ctx context.Context) error, others ...os.Signal) {
	ctx, stop := signal.NotifyContext(context.Background(), append(others, os.Interrupt)...)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		stop()
		os.Exit(1)
	}
}
