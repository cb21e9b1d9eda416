package deployments

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// probe runs in the booted system, as root.
const probe = `exec >/opt/said/probe 2>&1
export CERTPOST_CONFIG=/etc/certpost/certpost.yaml
show() { systemctl show -P "$2" "$1"; }
until_is() { # UNIT PROPERTY VALUE
	for i in $(seq 300); do [ "$(show $1 $2)" = "$3" ] && return; sleep 0.1; done
	echo "$1: $2 is $(show $1 $2), want $3"
}
waits() { /opt/x/certpost deliveries list -o json | grep -q '"target": *"ops"'; }
systemctl start certpost && echo "probe: started, $(show certpost StatusText)"
pid=$(show certpost MainPID)
echo "probe: root? $(stat -c %u /proc/$pid | sed 's/^[1-9].*/no/'), capabilities $(sed -n 's/^CapBnd:\t//p' /proc/$pid/status), data $(stat -c %a /var/lib/private/certpost)"
/opt/x/certpost status >/dev/null && echo "probe: status answers"

cp /var/lib/certpost/nats/publisher.nk /etc/certpost/
systemctl start certpost-watch && echo "probe: watch started, $(show certpost-watch StatusText)"
for i in $(seq 100); do waits && break; sleep 0.1; done
waits && echo "probe: the certificate of a directory that only root may read is on its way"

kill -9 $pid
until_is certpost NRestarts 1
until_is certpost SubState running
echo "probe: killed, and started again"
pid=$(show certpost MainPID)
kill -STOP $pid
until_is certpost NRestarts 2
until_is certpost SubState running
journalctl -u certpost --no-pager | grep -q "Watchdog timeout" && echo "probe: stopped by the watchdog, and started again"
systemctl stop certpost certpost-watch && echo "probe: ended with $(show certpost Result) and $(show certpost-watch Result)"
journalctl -u certpost-watch --no-pager | tail -20
systemctl poweroff
`

// TestBoot boots a systemd with the units, on this machine's /usr and nothing else of it: they
// start, may what they need, are restarted after a crash and after a hang, and end.
func TestBoot(t *testing.T) {
	t.Parallel()
	nspawn := lab.Need(t, "systemd-nspawn")
	if os.Geteuid() != 0 {
		lab.Skip(t, "only root boots a container")
	}
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(lab.Build(t))
	if err != nil {
		t.Fatal(err)
	}
	put("x/certpost", string(program), 0o755)
	put("x/probe", probe, 0o600)
	put("said/probe", "", 0o600)
	for _, unit := range []string{"certpost", "certpost-watch"} {
		text := strings.Replace(read(t, "systemd/"+unit+".service"), "\nExecStart=certpost ", "\nExecStart=/opt/x/certpost ", 1)
		put("units/"+unit+".service", text, 0o644)
	}
	put("units/certpost.service.d/test.conf", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n", 0o600)
	put("units/certpost-watch.service.d/test.conf", "[Service]\nExecStart=\nExecStart=/opt/x/certpost --config /etc/certpost/watch.yaml watch /etc/letsencrypt --no-key\n", 0o600)
	put("units/probe.service", "[Service]\nType=oneshot\nExecStart=/bin/sh /opt/x/probe\n", 0o600)
	put("units/own.target", "[Unit]\nRequires=probe.service\n", 0o600)
	put("certpost/certpost.yaml", `data_dir: /var/lib/certpost
audit: {key: {credential: certpost_audit}}
targets:
  - {id: ops, match: {issuers: ["*"]}, host: 127.0.0.1, port: 2525, auth_method: none, from_address: a@example.com, to: [b@example.com]}
`, 0o644)
	put("certpost/watch.yaml", read(t, "packages/watch.yaml"), 0o644)
	put("certpost/credentials/audit", base64.StdEncoding.EncodeToString(make([]byte, 32)), 0o600)
	live := filepath.Join(dir, "letsencrypt/live/www.example.com")
	if err := os.MkdirAll(live, 0o700); err != nil {
		t.Fatal(err)
	}
	cert, key := lab.NewCA(t, t.TempDir()).Issue(t, "www.example.com")
	for from, to := range map[string]string{cert: "fullchain.pem", key: "privkey.pem"} {
		put("letsencrypt/live/www.example.com/"+to, read(t, from), 0o600)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := []string{
		"-q", "--register=no", "--keep-unit", "--private-network", "--volatile=yes", "-D", "/",
		"--bind-ro=" + dir + "/x:/opt/x", "--bind=" + dir + "/certpost:/etc/certpost", "--bind=" + dir + "/said:/opt/said", "--bind-ro=" + dir + "/letsencrypt:/etc/letsencrypt",
	}
	for _, unit := range []string{"certpost.service", "certpost.service.d", "certpost-watch.service", "certpost-watch.service.d", "probe.service", "own.target"} {
		args = append(args, "--bind-ro="+dir+"/units/"+unit+":/etc/systemd/system/"+unit)
	}
	args = append(args, "-b", "systemd.unit=own.target", "systemd.firstboot=no", "systemd.mask=systemd-networkd.service", "systemd.mask=systemd-networkd-wait-online.service")
	boot := exec.CommandContext(ctx, nspawn, args...)
	boot.Cancel = func() error { return boot.Process.Signal(os.Interrupt) }
	boot.WaitDelay = 10 * time.Second
	out, err := boot.CombinedOutput()
	said := read(t, filepath.Join(dir, "said/probe"))
	for _, want := range []string{
		"probe: started, pages on http://127.0.0.1:8080, NATS nats://127.0.0.1:4222",
		"probe: root? no, capabilities 0000000000000000, data 700",
		"probe: status answers",
		"probe: watch started, watching /etc/letsencrypt",
		"probe: the certificate of a directory that only root may read is on its way",
		"probe: killed, and started again",
		"probe: stopped by the watchdog, and started again",
		"probe: ended with success and success",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		t.Errorf("%v\n%s\n%s", err, tail(string(out)), said)
	}
}

// tail is the end of a text, which the console fills with progress.
func tail(text string) string { return text[max(0, len(text)-2000):] }
