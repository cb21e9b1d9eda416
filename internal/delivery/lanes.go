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
func assignLanes(targets []*Target) {
	distinct := make(map[string]bool)
	for _, t := range targets {
		t.lane = laneOf(t.Host, t.Port)
		distinct[t.lane] = true
	}
	if len(distinct) <= maxLanes {
		return
	}
	for _, t := range targets {
		t.lane = sharedLaneOf(t.lane)
	}
}

// laneOf returns the name of a relay's lane: [A-Za-z0-9_-]{1,64}, the same for every
// spelling of the host, different for different relays.
func laneOf(host string, port int) string {
	host = nameOf(host).ascii
	relay := host + ":" + strconv.Itoa(port)
	exact := true
	lane := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r == '.':
			return '_'
		}
		exact = false // two hosts may now look the same
		return '_'
	}, host) + "-" + strconv.Itoa(port)
	if exact && len(lane) <= maxLaneLen {
		return lane
	}
	sum := sha256.Sum256([]byte(relay))
	suffix := "-" + hex.EncodeToString(sum[:4])
	return lane[:min(len(lane), maxLaneLen-len(suffix))] + suffix
}

func sharedLaneOf(lane string) string {
	sum := sha256.Sum256([]byte(lane))
	return fmt.Sprintf("%s%03d", verdict.SharedLanePrefix, binary.BigEndian.Uint32(sum[:])%maxLanes)
}
