package dashboard

import "testing"

func TestPace(t *testing.T) {
	t.Parallel()
	for lately, want := range map[int]string{0: "0/min", 1: "0.2/min", 49: "9.8/min", 60: "12/min", 2999: "600/min", 3000: "10/s", 100_000: "333/s"} {
		if got := pace(lately); got != want {
			t.Errorf("pace(%d) is %s, want %s", lately, got, want)
		}
	}
}
