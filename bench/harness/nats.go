package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certpost/certpost/bench/road"
)

// natsConfig is the variable that makes a program a NATS server: the file of its
// configuration. So the server is the one that Certpost embeds, in a process of its own.
const natsConfig = "BENCH_NATS_CONFIG"

// ServeNATS runs a NATS server until it is told to stop, if this process is to be one. A
// program that uses NewServers, and its tests, call it first of all.
func ServeNATS() (served bool) {
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

// NewServers returns three NATS servers of one cluster, not started yet, with stores, logs
// and configurations in the directory, and their URLs.
func NewServers(dir string) (servers []*Process, urls []string, err error) {
	var routes []string
	for range 3 {
		address, err := road.FreeAddress()
		if err != nil {
			return nil, nil, err
		}
		routes = append(routes, address)
	}
	for i, route := range routes {
		cluster := fmt.Sprintf("cluster { name: bench, listen: %q, routes: [nats-route://%s] }\n", route, strings.Join(routes, ", nats-route://"))
		server, url, err := newServer(dir, fmt.Sprintf("nats%d", i+1), cluster)
		if err != nil {
			return nil, nil, err
		}
		servers, urls = append(servers, server), append(urls, url)
	}
	return servers, urls, nil
}

// NewServer returns a NATS server on its own, as NewServers does.
func NewServer(dir, name string) (server *Process, url string, err error) {
	return newServer(dir, name, "")
}

func newServer(dir, name, more string) (*Process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	address, err := road.FreeAddress()
	if err != nil {
		return nil, "", err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", err
	}
	file := filepath.Join(dir, name+".conf")
	text := fmt.Sprintf("server_name: %s\nhost: %s\nport: %s\njetstream { store_dir: %q, max_file_store: 16GB }\nlame_duck_duration: \"30s\"\n%s",
		name, host, port, filepath.Join(dir, name), more)
	return &Process{Name: name, Log: filepath.Join(dir, name+".log"), Command: func() *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), natsConfig+"="+file)
		return cmd
	}}, "nats://" + address, os.WriteFile(file, []byte(text), 0o600)
}
