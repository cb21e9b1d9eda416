package desk

import "time"

// throughput counts the mails that went through each lane in the last minutes.
type throughput struct {
	lanes map[string]*minutes
}

// minutes are counts by minute, for the newest eight minutes.
type minutes struct {
	newest int64 // minutes since 1970
	counts [8]int
}

// throughputSpan is the time that is counted. It is whole minutes, so up to one minute
// less is covered.
const throughputSpan = 5 * time.Minute

// add counts a mail that a relay accepted at a time, in Unix seconds.
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

// of returns how many mails went through a lane in the last throughputSpan.
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
