package road

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// Program returns the path of the certpost binary to measure: the given one, or for "" one
// that is built into the directory.
func Program(ctx context.Context, given, dir string) (string, error) {
	if given != "" {
		return given, nil
	}
	path := filepath.Join(dir, "certpost")
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/certpost/certpost/cmd/consumer").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, text)
	}
	return path, nil
}

// Median returns the middle value, the mean of the middle two of an even number.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Poll calls done every 10 ms until it returns nil. The error after patience, or when the
// context has ended, contains the last one.
func Poll(ctx context.Context, patience time.Duration, done func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
