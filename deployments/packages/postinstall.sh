#!/bin/sh
# After an installation or an upgrade, of the deb ("configure [OLD]") or the rpm ("1", "2").
# It starts nothing: without targets there is nothing to do. What runs gets the new program.
set -e
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart certpost.service certpost-watch.service
fi
