package broker

import (
	"flag"
	"os"
	"testing"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// TestMain runs more tests at the same time than there are cores: they wait for
// servers, not for the processor.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func testEvent(id string, targets ...string) *events.Event {
	return &events.Event{ID: id, Source: "test://ca", Certificate: events.Certificate{PEM: lab.SelfSigned("www.example.com")}, Targets: targets}
}

// operator acts on dead letters in these tests.
var operator = Actor{Name: "operator", Via: ViaShell}

// clientOf is the configuration of another process that uses the embedded server of b.
func clientOf(b *Broker) Config {
	return Config{URL: b.URL(), NKeyFile: SeedFile(b.cfg.DataDir, Administrator)}
}
