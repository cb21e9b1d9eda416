//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certpost/certpost/bench/road"
)

// natsConfig is the variable that makes this program a NATS server: the file of its
// configuration. So the server is the one that Certpost embeds, in a process of its own.
const natsConfig = "CERTPOST_BENCH_NATS_CONFIG"

// serveNATS runs a NATS server until it is told to stop, if this process is to be one.
func serveNATS() (served bool) {
	file := os.Getenv(natsConfig)
	if file == "" {
		return false
	}
	opts := &server.Options{}
	err := opts.ProcessConfigFile(file)
	var s *server.Server
	if err == nil {
		s, err = server.NewServer(opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	return true
}

// member is one process of the cluster. It is used by one goroutine at a time.
type member struct {
	name    string
	command func() *exec.Cmd
	log     string
	process *exec.Cmd
	ended   chan error // receives the result of the process when it ends
}

// newServers returns the NATS servers and their URLs.
func newServers(dir string) (servers []*member, urls []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	var routes, clients []string
	for range 3 {
		for _, list := range []*[]string{&routes, &clients} {
			address, err := road.FreeAddress()
			if err != nil {
				return nil, nil, err
			}
			*list = append(*list, address)
		}
	}
	for i := range 3 {
		name := fmt.Sprintf("nats%d", i+1)
		host, port, err := net.SplitHostPort(clients[i])
		if err != nil {
			return nil, nil, err
		}
		file := filepath.Join(dir, name+".conf")
		text := fmt.Sprintf("server_name: %s\nhost: %s\nport: %s\njetstream { store_dir: %q, max_file_store: 4GB }\n"+
			"cluster { name: bench, listen: %q, routes: [nats-route://%s] }\nlame_duck_duration: \"30s\"\n",
			name, host, port, filepath.Join(dir, name), routes[i], strings.Join(routes, ", nats-route://"))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, nil, err
		}
		servers = append(servers, &member{name: name, log: filepath.Join(dir, name+".log"), command: func() *exec.Cmd {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), natsConfig+"="+file)
			return cmd
		}})
		urls = append(urls, "nats://"+clients[i])
	}
	return servers, urls, nil
}

func (m *member) start() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.process = m.command()
	m.process.Stdout, m.process.Stderr = log, log
	// It ends with this process, however that ends: a stopped one would stay for ever.
	m.process.SysProcAttr = endWithParent()
	if err := m.process.Start(); err != nil {
		return err
	}
	m.ended = make(chan error, 1)
	go func(p *exec.Cmd, ended chan<- error) { ended <- p.Wait() }(m.process, m.ended)
	return nil
}

// signal sends a signal.
func (m *member) signal(s os.Signal) error {
	if err := m.process.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

// end sends a signal that ends the process, and waits for that. Without a process it does
// nothing.
func (m *member) end(s os.Signal) error {
	if m.process == nil {
		return nil
	}
	if err := m.signal(s); err != nil {
		return err
	}
	err := <-m.ended
	m.process = nil
	if s == syscall.SIGKILL {
		return nil // the error is that it was killed
	}
	return err
}
