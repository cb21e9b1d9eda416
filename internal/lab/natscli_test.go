package lab

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestNATSCLI(t *testing.T) {
	t.Parallel()
	broker, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), Username: "ops", Password: "broker-password",
	})
	if err != nil {
		t.Fatal(err)
	}
	go broker.Start()
	t.Cleanup(func() {
		broker.Shutdown()
		broker.WaitForShutdown()
	})
	if !broker.ReadyForConnections(patience) {
		t.Fatal("the broker does not accept connections")
	}
	credentials := []string{"NATS_USER=ops", "NATS_PASSWORD=broker-password"}
	nats := NATSCLI(t, broker.ClientURL(), credentials...)

	nats("stream", "add", "LETTERS", "--subjects", "letters.>", "--defaults")
	nats("pub", "letters.one", "by hand {{.Count}}", "--jetstream")
	if got := nats("stream", "get", "LETTERS", "1", "--json"); !strings.Contains(got, `"letters.one"`) {
		t.Errorf("the message that was published is not there:\n%s", got)
	}

	// The same in a shell, as in the manual.
	shell := exec.CommandContext(t.Context(), "sh", "-c", "echo 'through a pipe' | nats pub letters.two --force-stdin && nats stream info LETTERS --json")
	shell.Env = NATSEnv(t, broker.ClientURL(), credentials...)
	out, err := shell.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"messages": 2`) {
		t.Errorf("nats in a shell: %v\n%s", err, out)
	}
}
