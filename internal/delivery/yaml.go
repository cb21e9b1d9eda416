package delivery

import "time"

// Duration is a Go duration in YAML ("30s").
type Duration time.Duration
