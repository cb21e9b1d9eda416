package delivery

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

const (
	maxLanes   = 200 // a work queue with more consumers than that gets slow (docs/decisions)
	maxLaneLen = 64
)

// assignLanes gives every relay its own lane or, with more than maxLanes relays,
// one of maxLanes shared lanes. A relay's shared lane depends only on the relay, so
// replicas agree even while one of them has not yet reloaded the targets.
//
// Every mail host has its own lane, whatever their number: no other process can serve it.
func assignLanes(targets []*Target) {
	distinct := make(map[string]bool)
	for _, t := range targets {
		if t.onHost() {
			t.lane = HostLane(t.Host)
			continue
		}
		t.lane = laneOf(t.Host, t.Port)
		distinct[t.lane] = true
	}
	if len(distinct) <= maxLanes {
		return
	}
	for _, t := range targets {
		if !t.onHost() {
			t.lane = sharedLaneOf(t.lane)
		}
	}
}

// HostLane returns the name of a mail host's lane: the same for every spelling of the host.
func HostLane(host string) string {
	host = nameOf(host).ascii
	label, exact := laneLabel(host)
	return bounded(verdict.HostLanePrefix+label, exact, host)
}

// laneOf returns the name of a relay's lane: [A-Za-z0-9_-]{1,64}, the same for every
// spelling of the host, different for different relays, and no name of a mail host's lane.
func laneOf(host string, port int) string {
	host = nameOf(host).ascii
	label, exact := laneLabel(host)
	lane := label + "-" + strconv.Itoa(port)
	if verdict.OnHost(lane) {
		lane, exact = "relay-"+lane, false
	}
	return bounded(lane, exact, host+":"+strconv.Itoa(port))
}

// laneLabel returns a host's name with the characters of a lane. It is not exact if two hosts
// may now look the same.
func laneLabel(host string) (label string, exact bool) {
	exact = true
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r == '.':
			return '_'
		}
		exact = false
		return '_'
	}, host), exact
}

// bounded returns a lane that is not exact or too long with a hash of what it is for.
func bounded(lane string, exact bool, of string) string {
	if exact && len(lane) <= maxLaneLen {
		return lane
	}
	sum := sha256.Sum256([]byte(of))
	suffix := "-" + hex.EncodeToString(sum[:4])
	return lane[:min(len(lane), maxLaneLen-len(suffix))] + suffix
}

func sharedLaneOf(lane string) string {
	sum := sha256.Sum256([]byte(lane))
	return fmt.Sprintf("%s%03d", verdict.SharedLanePrefix, binary.BigEndian.Uint32(sum[:])%maxLanes)
}
