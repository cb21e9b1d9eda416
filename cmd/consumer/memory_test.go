package main

import (
	"errors"
	"math"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/rs/zerolog"
)

// Fault: a memory limit of the container. Result: Go's limit follows the container's.
func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	failing := func(err error) memlimit.Provider { return func() (uint64, error) { return 0, err } }
	const untouched = 7 << 30
	for name, test := range map[string]struct {
		container memlimit.Provider
		own       string // GOMEMLIMIT
		want      int64
		says      string
	}{
		"a container's":     {memlimit.Limit(1000 << 20), "", 900 << 20, `"container_limit":1048576000`},
		"GOMEMLIMIT wins":   {memlimit.Limit(1000 << 20), "7GiB", untouched, `"memory_limit":7516192768,"message":"memory is limited by GOMEMLIMIT"`},
		"none":              {failing(memlimit.ErrNoLimit), "", untouched, "memory is not limited"},
		"no cgroup":         {failing(memlimit.ErrNoCgroup), "", untouched, "memory is not limited"},
		"no Linux":          {failing(memlimit.ErrCgroupsNotSupported), "", untouched, "memory is not limited"},
		"more than any has": {memlimit.Limit(math.MaxUint64), "", math.MaxInt64, `"level":"info"`},
		"unreadable":        {failing(errors.New("permission denied")), "", untouched, `"level":"warn"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", test.own)
			debug.SetMemoryLimit(untouched)
			var log strings.Builder
			limitMemory(test.container, zerolog.New(&log))
			if got := debug.SetMemoryLimit(-1); got != test.want {
				t.Errorf("the limit is %d, want %d", got, test.want)
			}
			if !strings.Contains(log.String(), test.says) || !strings.Contains(log.String(), `"cpus":`) {
				t.Errorf("the log says %s", &log)
			}
		})
	}
}
