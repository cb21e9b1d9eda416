package desk

import "time"

// throughput counts what went through each lane in the last minutes.
type throughput struct {
	lanes map[string]*minutes
}

// minutes are counts by minute; those behind the newest by more are gone.
type minutes struct {
	newest int64 // minutes since 1970
	counts [8]int
}

// throughputSpan what "lately" means. It is whole minutes, so up to one less is counted.
const throughputSpan = 5 * time.Minute

// add counts a mail that a relay took at a moment, in Unix seconds.
func (l *throughput) add(lane string, at int64) {
	m := l.lanes[lane]
	if m == nil {
		m = &minutes{}
		l.lanes[lane] = m
	}
	if c := place(m.counts[:], &m.newest, at/60); c != nil {
		*c++
	}
}

// of is how many mails went through a lane lately.
func (l *throughput) of(lane string, now time.Time) (sum int) {
	m := l.lanes[lane]
	if m == nil {
		return 0
	}
	last := now.Unix() / 60
	for minute := last - int64(throughputSpan/time.Minute) + 1; minute <= last; minute++ {
		sum += countOf(m.counts[:], m.newest, minute)
	}
	return sum
}
