# Runs in the booted container of TestUnitInBootedSystemd, as root. /opt/etc is /etc of the
# machine, /opt/probe has the files of the test. Lines that begin with PROBE are its results.
say() { echo "PROBE $*"; }
wait_for() { # what, command...
	what=$1; shift
	for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
	say "timeout: $what"
	journalctl --no-pager -o cat -u certpost-mailhost.service -u postfix@-.service -u dovecot.service | tail -30
	exit 1
}
served() { # address, options of s_client
	at=$1; shift
	openssl s_client -connect "$at" -servername mx1.example.com "$@" </dev/null 2>/dev/null | openssl x509 -noout -serial | cut -d= -f2
}
serves() { [ "$(served 127.0.0.1:25 -starttls smtp) $(served 127.0.0.1:993)" = "$1 $1" ]; }
ready() { curl -sf -o /dev/null http://127.0.0.1:8080/readyz; }
certpost() { cd /var/lib/certpost && /opt/probe/certpost --config /etc/certpost/certpost.yaml "$@"; }

cp /opt/etc/passwd /opt/etc/group /opt/etc/shadow /opt/etc/services /opt/etc/nsswitch.conf /etc/
cp -a /opt/etc/postfix /opt/etc/dovecot /opt/etc/alternatives /etc/ # awk is an alternative
cp /opt/probe/main.cf /opt/probe/master.cf /etc/postfix/
cp /opt/probe/dovecot.conf /etc/dovecot/
install -d -m 0755 /var/spool/postfix /etc/postfix/certs /etc/dovecot/certs /etc/certpost
install -d -o postfix /var/lib/postfix
install -d -m 0700 /etc/certpost/keys
cp /opt/probe/certpost.yaml /etc/certpost/
cp /opt/probe/second.key /opt/probe/third.key /opt/probe/wrong.key /etc/certpost/keys/
for d in postfix dovecot; do install -m 0600 /opt/probe/first.pem /etc/$d/certs/mx1.pem; done
systemctl start postfix@-.service dovecot.service || { say "the servers do not start"; journalctl --no-pager -o cat | grep -i postfix | tail -20; }
wait_for "the servers" serves "$(cat /opt/probe/first.serial)"

systemctl start certpost-mailhost.service || say "the unit does not start"
wait_for "ready" ready
pid=$(systemctl show -p MainPID --value certpost-mailhost.service)
say "status: $(grep -E '^(NoNewPrivs|Seccomp|CapBnd):' /proc/$pid/status | tr -s '\t\n' ' ')"
certpost publish --cert /opt/probe/second.pem --key-ref file:/etc/certpost/keys/second.key --target mx1-postfix --target mx1-dovecot >/dev/null || say "publish fails"
wait_for "second certificate" serves "$(cat /opt/probe/second.serial)" && say "second: served"

systemctl kill -s KILL certpost-mailhost.service
wait_for "another process" sh -c "p=\$(systemctl show -p MainPID --value certpost-mailhost.service); [ \"\$p\" != 0 ] && [ \"\$p\" != $pid ]"
wait_for "ready again" ready
certpost publish --cert /opt/probe/third.pem --key-ref file:/etc/certpost/keys/wrong.key --target mx1-postfix >/dev/null || say "publish fails"
wait_for "a dead letter" sh -c "cd /var/lib/certpost && /opt/probe/certpost --config /etc/certpost/certpost.yaml dead-letters list | grep -q SMTP_PAYLOAD" && say "wrong key: dead letter"
certpost publish --cert /opt/probe/third.pem --id third --key-ref file:/etc/certpost/keys/third.key --target mx1-postfix --target mx1-dovecot >/dev/null || say "publish fails"
wait_for "third certificate" serves "$(cat /opt/probe/third.serial)" && say "third: served after a kill"
wait_for "the receipts" sh -c "cd /var/lib/certpost && [ \$(/opt/probe/certpost --config /etc/certpost/certpost.yaml deliveries list --event third -o json | grep -c '\"state\": *\"sent\"') = 2 ]"
say "files: $(stat -c '%a %U:%G' /etc/postfix/certs/mx1.pem /etc/dovecot/certs/mx1.pem | sort -u | tr '\n' ' ')"
say "strays: $(find /etc/postfix/certs /etc/dovecot/certs -name '*.certpost-new' -o -name '*.certpost-old' -o -name '*-journal' | wc -l)"
systemctl stop certpost-mailhost.service
say "stopped: $(systemctl show -p Result -p ActiveState --value certpost-mailhost.service | tr '\n' ' ')"
say "exposure: $(systemd-analyze security --no-pager certpost-mailhost.service | grep -o 'Overall exposure.*: [0-9.]*' | grep -o '[0-9.]*$')"
say done
