//go:build !unix

package road

import "time"

// ProcessorTime is not told here.
func ProcessorTime() time.Duration { return 0 }
