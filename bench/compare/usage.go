package main

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

// usage is what a process and its descendants have used.
type usage struct {
	cpu  time.Duration
	peak int64 // bytes; the sum of the peaks of those that run
}

// clockTick is the unit of the times in /proc/PID/stat, proc(5): sysconf(_SC_CLK_TCK), which
// is 100 on every Linux that Go runs on.
const clockTick = time.Second / 100

// usageOf reads /proc. The times of children that have ended are in their parent's figures
// once it has waited for them.
func usageOf(root int) (usage, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
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
			return usage{}, fmt.Errorf("%s is not as proc(5) describes it", path)
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
		return usage{}, fmt.Errorf("process %d has ended", root)
	}
	var u usage
	for pid, p := range all {
		at := pid
		for at != root && at > 1 {
			at = all[at].parent
		}
		if at == root {
			u.cpu += p.cpu
			u.peak += peakOf(pid)
		}
	}
	return u, nil
}

// peakOf returns the peak of a process's resident memory in bytes, 0 if it has ended.
func peakOf(pid int) int64 {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, found := strings.CutPrefix(lines.Text(), "VmHWM:"); found {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}
