package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process and its descendants have used.
type Usage struct {
	CPU time.Duration
	// Resident and Peak are the resident memory now and at its most, in bytes: the sums of
	// those that run.
	Resident, Peak int64
}

// clockTick is the unit of the times in /proc/PID/stat, proc(5): sysconf(_SC_CLK_TCK), which
// is 100 on every Linux that Go runs on.
const clockTick = time.Second / 100

// UsageOf reads /proc, so only Linux has it. The times of children that have ended are in their parent's figures
// once it has waited for them.
func UsageOf(root int) (Usage, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return Usage{}, err
	}
	type process struct {
		parent int
		cpu    time.Duration
	}
	all := map[int]process{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold spaces.
		i := bytes.LastIndexByte(text, ')')
		f := strings.Fields(string(text[i+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if i < 0 || err != nil || len(f) < 15 {
			return Usage{}, fmt.Errorf("%s is not as proc(5) describes it", path)
		}
		parent, _ := strconv.Atoi(f[1])
		ticks := 0
		for _, field := range f[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.Atoi(field)
			ticks += n
		}
		all[pid] = process{parent, time.Duration(ticks) * clockTick}
	}
	if _, ok := all[root]; !ok {
		return Usage{}, fmt.Errorf("process %d has ended", root)
	}
	var u Usage
	for pid, p := range all {
		at := pid
		for at != root && at > 1 {
			at = all[at].parent
		}
		if at == root {
			u.CPU += p.cpu
			now, peak := memoryOf(pid)
			u.Resident += now
			u.Peak += peak
		}
	}
	return u, nil
}

// memoryOf returns the resident memory of a process and its peak in bytes, 0 if it has
// ended.
func memoryOf(pid int) (now, peak int64) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
		switch {
		case err != nil:
		case name == "VmRSS":
			now = kib << 10
		case name == "VmHWM":
			peak = kib << 10
		}
	}
	return now, peak
}
