#!/bin/sh
# After the package was removed or purged. The data in /var/lib/certpost stays: it holds
# undelivered events and the audit. Remove /var/lib/private/certpost by hand.
set -e
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
