package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

// What init prints works line by line, in its order, in an empty directory: each line in a shell, as it is pasted.
func TestNextStepsOfInit(t *testing.T) {
	t.Parallel()
	dir, tools := t.TempDir(), t.TempDir()
	if err := os.Symlink(lab.Build(t), filepath.Join(tools, "certpost")); err != nil {
		t.Fatal(err)
	}
	relay, err := devrelay.Start(devrelay.Config{Users: map[string]string{relayUser: relayPassword}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Close() })
	ca, err := relay.CAFile(tools)
	if err != nil {
		t.Fatal(err)
	}
	dns := lab.DNS(t, lab.DNSBehaviour{Authoritative: true})
	env := append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "SMTP_PASSWORD="+relayPassword, "SSL_CERT_FILE="+ca, "CERTPOST_NATS_LISTEN="+lab.FreeAddress(t), "CERTPOST_HTTP_LISTEN=127.0.0.1:0", "CERTPOST_DNS_SERVERS="+dns.Address)
	shell := func(line string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec "+line)
		cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, 10*time.Second
		return cmd
	}
	host, port := lab.HostPort(t, relay.Submission())
	printed, err := shell(fmt.Sprintf("certpost init --host %s --port %d --username %s --from certs@demo.example --to ops@demo.example", host, port, relayUser)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	var done []string
	for line := range strings.Lines(string(printed)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "certpost run "):
			log := &writings{}
			run := shell(line)
			run.Stdout, run.Stderr = log, log
			if err := run.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { run.Process.Kill(); run.Wait() })
			// The lane's consumer is what the first start makes last, in the time in which another terminal is opened.
			for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), `"consumer":"lane-`); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s", log)
				}
			}
		case strings.HasPrefix(line, "certpost "):
			if said, err := shell(line).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, said)
			}
		default:
			continue
		}
		done = append(done, strings.Fields(line)[1])
	}
	if got := strings.Join(done, " "); got != "run check send-test" || len(relay.Mails()) != 1 {
		t.Errorf("%s, %d mails; printed:\n%s", got, len(relay.Mails()), printed)
	}
}
