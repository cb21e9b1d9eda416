package delivery

import (
	"cmp"
	"slices"

	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// Relays returns all relays of targets that are not disabled, sorted by name.
func (i Inspector) Relays() []verdict.RelayView { return i.courier.book.Current().Relays() }

// Relays returns all relays of targets that are not disabled, sorted by name.
func (d *Definitions) Relays() []verdict.RelayView {
	var all []verdict.RelayView
	index := make(map[string]int)
	for _, t := range d.targets {
		if t.Disabled || t.onHost() {
			continue
		}
		for i, relay := range d.relays[t.ID] {
			name := smtp.RelayName(relay.Host, relay.Port)
			n, known := index[name]
			if !known {
				n = len(all)
				index[name] = n
				limits := d.limits[name]
				all = append(all, verdict.RelayView{Relay: name, MaxConnections: limits.MaxConnections,
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
	slices.SortFunc(all, func(a, b verdict.RelayView) int { return cmp.Compare(a.Relay, b.Relay) })
	return all
}
