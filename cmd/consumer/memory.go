package main

import (
	"errors"
	"math"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/rs/zerolog"
)

// limitMemory makes Go collect garbage harder near the container's memory limit, above
// which the kernel would kill the process: Go adapts to a container's CPUs by itself
// (GOMAXPROCS), but not to its memory. A tenth stays free for memory that Go does not
// count. GOMEMLIMIT, which the runtime has applied already, takes precedence.
// containerLimit returns bytes.
func limitMemory(containerLimit memlimit.Provider, log zerolog.Logger) {
	log = log.With().Int("cpus", runtime.GOMAXPROCS(0)).Logger()
	if own := os.Getenv("GOMEMLIMIT"); own != "" {
		log.Info().Int64("memory_limit", debug.SetMemoryLimit(-1)).Msg("memory is limited by GOMEMLIMIT")
		return
	}
	limit, err := containerLimit()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		log.Info().Msg("memory is not limited")
	case err != nil:
		log.Warn().Err(err).Msg("the container's memory limit cannot be read; if there is one, set GOMEMLIMIT to nine tenths of it")
	default:
		soft := int64(min(limit/10*9, math.MaxInt64))
		debug.SetMemoryLimit(soft)
		log.Info().Int64("memory_limit", soft).Uint64("container_limit", limit).Msg("memory is limited to nine tenths of the container's limit")
	}
}
