#!/bin/sh
# Before the package is removed: "remove" of the deb, "0" of the rpm. An upgrade stops nothing.
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
	if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now certpost.service certpost-watch.service
	fi
fi
