//go:build !unix

package road

import "time"

// ProcessorTime is 0: it is not available on this system.
func ProcessorTime() time.Duration { return 0 }
