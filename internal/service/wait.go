package service

import (
	"context"
	"time"
)

// Until polls until ok returns true or the context ends.
func Until(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
