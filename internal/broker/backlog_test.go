package broker

import "testing"

// A command that asks while a process starts, before that has made the consumer of events, is told
// what the consumer will be given.
func TestBacklogBeforeTheFirstConsumer(t *testing.T) {
	t.Parallel()
	b, _ := openLedgerForTest(t)
	for range 2 {
		if _, err := b.js.Publish(t.Context(), EventSubject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.js.DeleteConsumer(t.Context(), EventsStream, FanoutConsumer); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Backlog(t.Context()); err != nil || got.Events != 2 {
		t.Errorf("%+v, %v; want 2 events", got, err)
	}
}
