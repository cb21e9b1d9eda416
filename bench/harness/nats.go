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
		servers = append(servers, &Process{Name: name, Log: filepath.Join(dir, name+".log"), Command: func() *exec.Cmd {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), natsConfig+"="+file)
			return cmd
		}})
		urls = append(urls, "nats://"+clients[i])
	}
	return servers, urls, nil
}
