package lab

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Nginx starts a real nginx with one server, and returns its configuration file. The test is
// skipped, or fails with CI=true, if it is not installed.
func Nginx(t testing.TB, dir, address, server string) (conf string) {
	t.Helper()
	nginx := Need(t, "nginx")
	conf = writeFile(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf("pid %[1]s/pid;\nerror_log %[1]s/error.log;\nevents {}\nhttp {\naccess_log off;\nserver {\n%[2]s}\n}\n", dir, server), 0o644)
	p := startProcess(t, "nginx", filepath.Join(dir, "nginx.out"), exec.Command(nginx, "-c", conf, "-g", "daemon off;"))
	p.await(t, "waiting for its port", func() error { return answers(address) })
	return conf
}

// HAProxy starts a real HAProxy in master-worker mode with one frontend, likewise. A SIGUSR2 to
// the master reloads it.
func HAProxy(t testing.TB, dir, address, frontend string) (conf string, master int) {
	t.Helper()
	haproxy := Need(t, "haproxy")
	conf = writeFile(t, filepath.Join(dir, "haproxy.cfg"), "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\nfrontend www\n"+frontend, 0o644)
	p := startProcess(t, "haproxy", filepath.Join(dir, "haproxy.out"), exec.Command(haproxy, "-W", "-db", "-f", conf))
	p.await(t, "waiting for its port", func() error { return answers(address) })
	return conf, p.cmd.Process.Pid
}

// restarted starts a program again whenever it ends, as systemd does it. Killing the process whose
// number is in the file that it returns restarts it. before are lines of shell that run once.
func restarted(t testing.TB, name, dir, address, before string, command ...string) (pidFile string) {
	t.Helper()
	pidFile = filepath.Join(dir, name+".pid")
	script := "set -e\n" + before + "\nset +e\nwhile :; do\n  \"$@\" &\n  echo $! >" + pidFile + "\n  wait $!\n  sleep 0.05\ndone\n"
	log := filepath.Join(dir, name+".out")
	p := startProcess(t, name, log, exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, name}, command...)...))
	logOnFailure(t, log)
	p.await(t, "waiting for its port", func() error { return answers(address) })
	return pidFile
}

// tomcatHome is where Debian's package tomcat10-common has Tomcat.
const tomcatHome = "/usr/share/tomcat10"

// Tomcat starts a real Tomcat 10 with one connector and no application, likewise. Killing the
// process whose number is in the file that it returns restarts it.
func Tomcat(t testing.TB, dir, address, connector string) (pidFile string) {
	t.Helper()
	needRoot(t, "Tomcat") // unshare
	Need(t, filepath.Join(tomcatHome, "bin", "catalina.sh"))
	java := Need(t, "java")
	for _, name := range []string{"conf", "logs", "temp", "work", "webapps"} {
		mkdir(t, dir, name)
	}
	writeFile(t, filepath.Join(dir, "conf", "server.xml"), "<Server port=\"-1\"><Service name=\"Catalina\">\n"+connector+
		"<Engine name=\"Catalina\" defaultHost=\"localhost\"><Host name=\"localhost\" appBase=\"webapps\"/></Engine></Service></Server>\n", 0o644)
	classes := filepath.Join(tomcatHome, "bin", "bootstrap.jar") + ":" + filepath.Join(tomcatHome, "bin", "tomcat-juli.jar")
	// What catalina.sh runs, with a virtual machine that starts fast.
	return restarted(t, "tomcat", dir, address, "", java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-classpath", classes,
		"-Dcatalina.home="+tomcatHome, "-Dcatalina.base="+dir, "-Djava.io.tmpdir="+filepath.Join(dir, "temp"), "org.apache.catalina.startup.Bootstrap", "start")
}

// OpenSMTPD starts a real OpenSMTPD, which tools/test unpacks beside Postfix, with a
// configuration, likewise. Its users, queue and sockets are those of a mount namespace.
func OpenSMTPD(t testing.TB, dir, address, config string) (conf, pidFile string) {
	t.Helper()
	needRoot(t, "OpenSMTPD")
	// Postfix has a program of this name, too.
	smtpd := Need(t, filepath.Join(Root(), ".tools", "opensmtpd", "usr", "sbin", "smtpd"))
	conf = writeFile(t, filepath.Join(dir, "smtpd.conf"), config, 0o644)
	before := strings.NewReplacer("{dir}", dir).Replace(`
{ cat /etc/passwd; for u in opensmtpd:990 opensmtpq:991; do echo "${u%:*}:x:${u#*:}:${u#*:}::/var/lib/opensmtpd/empty:/usr/sbin/nologin"; done; } >{dir}/passwd
{ cat /etc/group; echo opensmtpd:x:990:; echo opensmtpq:x:991:; } >{dir}/group
mount --bind {dir}/passwd /etc/passwd
mount --bind {dir}/group /etc/group
for d in /var/spool /var/lib /run; do mount -t tmpfs tmpfs $d; chmod 755 $d; done
mkdir -m 711 /var/spool/smtpd
mkdir -p /var/lib/opensmtpd/empty`)
	return conf, restarted(t, "smtpd", dir, address, before, smtpd, "-d", "-f", conf)
}

// Port is the port of an address.
func Port(t testing.TB, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	return port
}
