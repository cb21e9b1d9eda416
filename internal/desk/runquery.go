package desk

import "time"

// RunQuery selects replay runs; the zero value selects all.
type RunQuery struct {
	State    RunState
	By       string
	Since    time.Duration // before now
	From, To time.Time     // of the start
}

// RunConditions are the conditions of the list of replay runs.
var RunConditions = Conditions[RunQuery, *Run]{
	text(Condition{Key: "state", Label: "state", Field: "State", Help: "Only this state (running, paused, done, ...).", Values: values([]RunState{RunRunning, RunWatching, RunPaused, RunStopped, RunCancelled, RunDone})},
		func(q *RunQuery) *string { return (*string)(&q.State) }, func(q *RunQuery) func(*Run) bool { return func(r *Run) bool { return r.State == q.State } }),
	text(Condition{Key: "by", Label: "by", Field: "By", Kind: Search, Help: "Only runs started by this name.", Hint: "NAME"},
		func(q *RunQuery) *string { return &q.By }, func(q *RunQuery) func(*Run) bool { return func(r *Run) bool { return r.By.Name == q.By } }),
	span(Condition{Key: "since", Label: "since", Field: "Since", Help: "Only runs started in the last 24h, another duration such as 7d, or since a time."},
		func(q *RunQuery) *time.Duration { return &q.Since }, startedFrom),
	moment(Condition{Key: "from", Label: "from", Help: "Only runs started from this time on (2026-01-31, 2026-01-31T15:04:05Z)."},
		func(q *RunQuery) *time.Time { return &q.From }, startedFrom),
	moment(Condition{Key: "to", Label: "before", Help: "Only runs started before this time."},
		func(q *RunQuery) *time.Time { return &q.To }, func(t time.Time) func(*Run) bool { return func(r *Run) bool { return r.Started.Before(t) } }),
}

func startedFrom(t time.Time) func(*Run) bool {
	return func(r *Run) bool { return !r.Started.Before(t) }
}
