package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
)

// postfix is a running Postfix that takes mails on loopback and relays all of them to a sink.
type postfix struct {
	address, config string
	master          *exec.Cmd
	sink            *sink
	remove          func()
}

// postfixMain is main.cf. It has what makes Postfix fast at one relay and changes nothing of
// what makes it safe: each mail is flushed to the queue before its 250.
const postfixMain = `compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
maillog_file = {dir}/postfix.log
maillog_file_prefixes = {dir}
myhostname = bench.example.com
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
relayhost = [{host}]:{port}
initial_destination_concurrency = 64
default_destination_concurrency_limit = 64
default_process_limit = 100
smtp_connection_cache_on_demand = yes
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
minimal_backoff_time = 5s
defer_transports = {held}
`

const postfixMaster = `{smtp} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
smtp unix - - n - - smtp
relay unix - - n - - smtp
postlog unix-dgram n - n - 1 postlogd
`

// openPostfix starts a Postfix; held: it queues mails and sends none until release.
func (b *bench) openPostfix(ctx context.Context, held bool) (p *postfix, err error) {
	dir, remove, err := b.newDir("postfix")
	if err != nil {
		return nil, err
	}
	p = &postfix{config: filepath.Join(dir, "etc"), remove: remove}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.sink, err = openSink(ctx); err != nil {
		return nil, err
	}
	if p.address, err = road.FreeAddress(); err != nil {
		return nil, err
	}
	for _, name := range []string{"etc", "queue"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	host, port, err := net.SplitHostPort(p.sink.address)
	if err != nil {
		return nil, err
	}
	transports := ""
	if held {
		transports = "smtp"
	}
	fill := strings.NewReplacer("{dir}", dir, "{host}", host, "{port}", port, "{smtp}", p.address, "{held}", transports)
	for name, text := range map[string]string{"main.cf": postfixMain, "master.cf": postfixMaster} {
		if err := os.WriteFile(filepath.Join(p.config, name), []byte(fill.Replace(text)), 0o644); err != nil {
			return nil, err
		}
	}
	if err := p.run(ctx, "postfix", "check"); err != nil { // makes the queue's directories
		return nil, err
	}
	daemons, err := exec.CommandContext(ctx, "postconf", "-c", p.config, "-h", "daemon_directory").Output()
	if err != nil {
		return nil, err
	}
	p.master = exec.CommandContext(ctx, filepath.Join(strings.TrimSpace(string(daemons)), "master"), "-c", p.config, "-s")
	if err := p.master.Start(); err != nil {
		return nil, err
	}
	return p, road.Poll(ctx, stalled, func() error {
		c, err := net.Dial("tcp", p.address)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func (p *postfix) run(ctx context.Context, program string, args ...string) error {
	text, err := exec.CommandContext(ctx, program, append([]string{"-c", p.config}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, text)
	}
	return nil
}

// release lets the queued mails go. The queue manager starts again to read its configuration,
// and may miss the request to flush its queue meanwhile, so that is repeated until a mail
// has arrived.
func (p *postfix) release(ctx context.Context) error {
	if err := p.run(ctx, "postconf", "-e", "defer_transports="); err != nil {
		return err
	}
	if err := p.master.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for range 60 {
		if err := p.run(ctx, "postqueue", "-f"); err != nil {
			return err
		}
		select {
		case <-p.sink.next():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return errors.New("no mail of the queue of Postfix arrives")
}

func (p *postfix) close() {
	if p.master != nil && p.master.Process != nil {
		_ = p.master.Process.Signal(syscall.SIGTERM)
		_ = p.master.Wait()
	}
	if p.sink != nil {
		p.sink.close()
	}
	p.remove()
}

// postfixBacklog measures from the first mail to the last, all of which are queued before.
func postfixBacklog(ctx context.Context, b *bench) (Result, error) {
	p, err := b.openPostfix(ctx, true)
	if err != nil {
		return Result{}, err
	}
	defer p.close()
	if _, err := runSource(ctx, p.address, b.mails); err != nil {
		return Result{}, err
	}
	time.Sleep(2 * time.Second) // until the queue manager has put all of them aside
	before, err := harness.UsageOf(p.master.Process.Pid)
	if err != nil {
		return Result{}, err
	}
	if err := p.release(ctx); err != nil {
		return Result{}, err
	}
	taken, err := p.sink.await(ctx, b.mails)
	if err != nil {
		return Result{}, err
	}
	return spent(Result{Mails: b.mails, Rate: paced(taken)}, p.master.Process.Pid, before)
}

// postfixRoad measures from the start of the first submission to the sink's last 250.
func postfixRoad(ctx context.Context, b *bench) (Result, error) {
	p, err := b.openPostfix(ctx, false)
	if err != nil {
		return Result{}, err
	}
	defer p.close()
	before, err := harness.UsageOf(p.master.Process.Pid)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	if _, err := runSource(ctx, p.address, b.mails); err != nil {
		return Result{}, err
	}
	taken, err := p.sink.await(ctx, b.mails)
	if err != nil {
		return Result{}, err
	}
	return spent(Result{Mails: b.mails, Rate: since(start, taken)}, p.master.Process.Pid, before)
}
