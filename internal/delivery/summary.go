package delivery

import (
	"cmp"
	"slices"

	"github.com/certpost/certpost/internal/verdict"
)

// RelaySummary is what the definitions say of one relay.
type RelaySummary struct {
	Relay    string `json:"relay"` // host:port
	Lane     string `json:"lane"`  // "" for one that is a fallback alone
	Targets  int    `json:"targets"`
	Fallback int    `json:"fallback_of"` // how many targets have it as a fallback

	MaxConnections           int          `json:"max_connections,omitempty"`
	MaxMessagesPerConnection int          `json:"max_messages_per_connection,omitempty"`
	MaxMessageRate           verdict.Rate `json:"max_message_rate,omitzero"`
}

// Relays are all relays of targets that are not disabled, sorted by name.
func (d *Definitions) Relays() []RelaySummary {
	var all []RelaySummary
	index := make(map[string]int)
	for _, t := range d.targets {
		if t.Disabled {
			continue
		}
		for i, way := range d.ways[t.ID] {
			name := relayName(way.Host, way.Port)
			n, known := index[name]
			if !known {
				n = len(all)
				index[name] = n
				limits := d.limits[name]
				all = append(all, RelaySummary{Relay: name, MaxConnections: limits.MaxConnections,
					MaxMessagesPerConnection: limits.MaxMessagesPerConnection, MaxMessageRate: limits.MaxMessageRate})
			}
			if i > 0 {
				all[n].Fallback++
				continue
			}
			all[n].Lane = t.lane
			all[n].Targets++
		}
	}
	slices.SortFunc(all, func(a, b RelaySummary) int { return cmp.Compare(a.Relay, b.Relay) })
	return all
}
