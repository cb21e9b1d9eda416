package dashboard

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

const replaysPath = "/replays"

// replaysView is the page of all replay runs, newest first.
type replaysView struct {
	Fields               formFields
	Chips                []desk.Chip
	Path, Here           string // the addresses of the unfiltered list, and of this page
	Unfinished, Finished []desk.Run
	Commands             []command
}

func (p *pages) replays(r *request) (view, error) {
	q, err := desk.RunConditions.Parse(r.URL.Query(), listKeys...)
	if err != nil {
		return view{}, err
	}
	runs := p.desk.Runs(q)
	request, _ := json.Marshal(map[string]any{"filter": desk.RunConditions.Filter(q)}) // strings can always be marshalled
	v := replaysView{Fields: filterFields(desk.RunConditions.All(), desk.RunConditions.Values(q), nil), Chips: desk.RunConditions.Chips(q), Path: replaysPath, Here: r.here(),
		Commands: []command{{"certpost", shellLine(append([]string{"certpost", "replays", "list"}, desk.RunConditions.Flags(q)...)...)}, {"nats", shellLine("nats", "req", "certpost.replays.list", string(request))}}}
	for _, run := range runs {
		if run.Ended.IsZero() {
			v.Unfinished = append(v.Unfinished, run)
		} else {
			v.Finished = append(v.Finished, run)
		}
	}
	return view{template: "replays", title: "Replays", data: v, table: exported(desk.RunTable, slices.Values(runs))}, nil
}

// runView is the page of one replay run: its progress, and the result of each letter.
type runView struct {
	desk.Run
	Address  string
	Chips    []desk.Chip
	Bar      bar
	Left     int // letters not yet handled
	Under    int // letters published, with an outcome not known yet
	Takes    string
	Results  []desk.RunResult
	Pager    pager
	Live     bool
	Anew     string // the address to replay the letters that are left, "" when there are none
	Pause    bool
	Resume   bool
	Cancel   bool
	Commands []command
}

// bar is a progress bar in percent: delivered, dead again, in progress.
type bar struct{ Done, Again, Under int }

func (p *pages) run(r *request) (view, error) {
	run, err := p.desk.RunOf(r.PathValue("id"))
	if err != nil {
		return view{}, err
	}
	results, next, err := p.desk.Results(r.Context(), run.ID, r.after(), pageSize(r))
	if err != nil {
		return view{}, err
	}
	v := newRunView(run, results)
	if r.after() == 0 && next == 0 {
		v.Anew = anew(v)
	}
	if next != 0 {
		v.Pager.Next = r.with("after", strconv.FormatUint(next, 10))
	}
	if r.after() != 0 {
		v.Pager.First = r.with("after", "")
	}
	return view{template: "run", title: "Replay " + run.ID, data: v, object: desk.RunPage{Run: run, Results: results, Next: next}, table: p.resultTable(r.Context(), run.ID)}, nil
}

func newRunView(run desk.Run, results []desk.RunResult) runView {
	count := run.Spec.Frozen.Count
	v := runView{Run: run, Address: replaysPath + "/" + url.PathEscape(run.ID), Results: results, Chips: chips(run.Spec.Frozen.Query), Live: run.Ended.IsZero(),
		Left:  max(0, count-run.Published-run.Gone-run.Failed),
		Under: run.UnderWay(),
	}
	if count > 0 {
		v.Bar = bar{100 * (run.Delivered + run.Gone) / count, 100 * (run.DeadAgain + run.Failed) / count, 100 * v.Under / count}
	}
	if v.Live && !run.Spec.Rate.IsZero() {
		v.Takes = span(time.Duration(v.Left) * run.Spec.Rate.Per / time.Duration(run.Spec.Rate.Count))
	}
	v.Pause = run.State == desk.RunRunning || run.State == desk.RunWatching
	v.Resume = run.State == desk.RunPaused
	v.Cancel = v.Live
	v.Commands = append(v.Commands, command{"certpost", shellLine("certpost", "replays", "show", run.ID, "--wait")})
	for _, step := range []struct {
		may  bool
		verb string
	}{{v.Pause, "pause"}, {v.Resume, "resume"}, {v.Cancel, "cancel"}} {
		if step.may {
			v.Commands = append(v.Commands, command{"certpost", shellLine("certpost", "replays", step.verb, run.ID, "--reason=WHY")})
		}
	}
	return v
}

// anew returns the address to replay the letters that an ended run has not replayed, "" if
// there are none. It names them by number, because the run's query may match other letters
// now.
func anew(v runView) string {
	query := url.Values{"action": {"replay"}}
	for _, result := range v.Results {
		if result.Result == "waiting" {
			query.Add("number", strconv.FormatUint(result.Number, 10))
		}
	}
	if v.Live || query.Get("number") == "" {
		return ""
	}
	return address(lettersPath+"/confirm", query)
}

// resultTable is the CSV of a run's results. They are read while the response is written.
func (p *pages) resultTable(ctx context.Context, id string) *table {
	const atOnce = 500
	all := func(yield func(desk.RunResult) bool) {
		for after := uint64(0); ; {
			results, next, err := p.desk.Results(ctx, id, after, atOnce)
			for _, result := range results {
				if !yield(result) {
					return
				}
			}
			if err != nil || next == 0 {
				return
			}
			after = next
		}
	}
	return &table{
		name:    "replay-" + id,
		columns: []string{"number", "target", "event", "result", "note", "at", "new_letter"},
		rows: rowsOf(all, func(result desk.RunResult) []string {
			return []string{strconv.FormatUint(result.Number, 10), result.Target, result.Event, result.Result, result.Note, stamp(result.At), strconv.FormatUint(result.Letter, 10)}
		}),
	}
}

func (p *pages) pauseRun(r *request) (view, error)  { return steer(r, p.desk.PauseRun, "paused") }
func (p *pages) resumeRun(r *request) (view, error) { return steer(r, p.desk.ResumeRun, "resumed") }
func (p *pages) cancelRun(r *request) (view, error) { return steer(r, p.desk.CancelRun, "cancelled") }

func steer(r *request, do func(context.Context, broker.Actor, string, string) error, notice string) (view, error) {
	id := r.PathValue("id")
	return view{to: replaysPath + "/" + url.PathEscape(id) + "?done=" + notice}, do(r.Context(), r.actor(), id, r.reason())
}
