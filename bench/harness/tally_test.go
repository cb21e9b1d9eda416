package harness

import (
	"testing"

	"github.com/certpost/certpost/internal/devrelay"
)

// The verdict finds each of the faults that it is to find.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tally Tally
		wrong bool
	}{
		"all is well":              {Tally{}, false},
		"lost":                     {Tally{Lost: 1}, true},
		"not settled":              {Tally{Unsettled: 1}, true},
		"dead":                     {Tally{Dead: 1}, true},
		"twice, marked":            {Tally{Duplicates: 1, Unknown: 1}, false},
		"twice, not marked":        {Tally{Duplicates: 1, Unknown: 1, Unmarked: 1}, true},
		"more often than outcomes": {Tally{Duplicates: 2, Unknown: 1}, true},
		"mails not kept":           {Tally{Forgotten: 1}, true},
	} {
		if err := c.tally.Verdict(); (err != nil) != c.wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	n := 1 // the first mail was not kept
	mail := func(event, target, rest string) devrelay.Mail {
		n++
		return devrelay.Mail{ID: n, Raw: []byte("X-Certpost-Event-Id: " + event + "\r\nX-Certpost-Target: " + target + "\r\n" + rest + "\r\n")}
	}
	got := Count([]string{"e1", "e2"}, []string{"a", "b"}, []devrelay.Mail{
		mail("e1", "a", ""), mail("e1", "a", "X-Certpost-Possible-Duplicate: yes\r\n"),
		mail("e1", "b", ""), mail("e1", "b", ""), mail("e2", "a", ""),
	}, Outcome{Dead: 3})
	want := Tally{Events: 2, Deliveries: 4, Mails: 5, Lost: 1, Unsettled: 4, Dead: 3, Duplicates: 2, Unmarked: 1, Marked: 1, Forgotten: 1}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
