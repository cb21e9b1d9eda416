package main

import (
	"net"
	"os"
)

// systemdReady tells systemd that a service of Type=notify has started (sd_notify(3)). It does
// nothing where systemd does not ask for it.
func systemdReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1"))
}
