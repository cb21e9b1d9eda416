package main

import (
	"container/heap"
	"math/rand/v2"
	"slices"
)

// resource is something that serves so many jobs at a time; others wait in order.
type resource struct {
	servers int
	busy    int
	waiting []func() // start a waiting job
	used    float64  // seconds of service
}

// Result is the outcome of a simulation.
type Result struct {
	Busiest  float64 // share of the busiest resource in use
	P50, P99 float64 // seconds from publication to the relay's 250
	Stable   bool    // no more jobs waited at the end than a second's
}

// simulation runs events in order of their time.
type simulation struct {
	now    float64
	events calendar
	order  int
	random *rand.Rand
}

type moment struct {
	at    float64
	order int // of those at the same time
	do    func()
}

type calendar []moment

func (c calendar) Len() int { return len(c) }
func (c calendar) Less(i, j int) bool {
	return c[i].at < c[j].at || c[i].at == c[j].at && c[i].order < c[j].order
}
func (c calendar) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *calendar) Push(x any)   { *c = append(*c, x.(moment)) }
func (c *calendar) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

func (s *simulation) after(delay float64, do func()) {
	s.order++
	heap.Push(&s.events, moment{s.now + delay, s.order, do})
}

// acquire calls do when the resource has a free server.
func (r *resource) acquire(do func()) {
	if r.busy < r.servers {
		r.busy++
		do()
		return
	}
	r.waiting = append(r.waiting, do)
}

func (r *resource) release() {
	if len(r.waiting) > 0 {
		next := r.waiting[0]
		r.waiting = r.waiting[1:]
		next()
		return
	}
	r.busy--
}

// serve occupies a server of the resource for a random time with this mean, then calls next.
func (s *simulation) serve(r *resource, mean float64, next func()) {
	r.acquire(func() {
		took := s.random.ExpFloat64() * mean
		r.used += took
		s.after(took, func() {
			r.release()
			next()
		})
	})
}

// warm is the time, in seconds, after which mails count. Few
// mails need as long.
const warm = 10

// Simulate runs one cell at a rate. Its mails take the road of docs/flow.md: stored (server),
// fanned out (Certpost), stored (server), a worker and a connection are free, read and
// rendered (Certpost), claimed (server), sent (relay), recorded (server). Times are
// exponential around the model's means, arrivals a Poisson process.
func Simulate(size Size, rate float64, seed uint64) Result {
	s := &simulation{random: rand.New(rand.NewPCG(seed, 12))}
	mails := max(20_000, int(rate*30))
	long := warm + float64(mails)/rate
	server, certpost := &resource{servers: cores}, &resource{servers: cores * size.Processes}
	serverMean, certpostMean := serverTime, certpostTime
	if size.Embedded { // both share the cores of one process
		server = certpost
		serverMean, certpostMean = embeddedTime/2, embeddedTime/2
	}
	relays := make([]struct{ workers, connections *resource }, up(rate/relayRate))
	for i := range relays {
		relays[i].workers = &resource{servers: workers * size.Processes}
		relays[i].connections = &resource{servers: connections * size.Processes}
	}
	var took []float64
	var under int
	var arrive func()
	arrive = func() {
		s.after(s.random.ExpFloat64()/rate, arrive)
		began, relay := s.now, relays[s.random.IntN(len(relays))]
		under++
		s.serve(server, serverMean/4, func() {
			s.serve(certpost, certpostMean/3, func() {
				s.serve(server, serverMean/4, func() {
					relay.workers.acquire(func() {
						s.serve(certpost, certpostMean*2/3, func() {
							relay.connections.acquire(func() {
								s.serve(server, serverMean/4, func() {
									sent := s.random.ExpFloat64() * replyTime
									relay.connections.used += sent
									s.after(sent, func() {
										relay.connections.release()
										if began > warm {
											took = append(took, s.now-began)
										}
										s.serve(server, serverMean/4, func() { relay.workers.release(); under-- })
									})
								})
							})
						})
					})
				})
			})
		})
	}
	s.after(0, arrive)
	for s.now < long {
		m := heap.Pop(&s.events).(moment)
		s.now = m.at
		m.do()
	}
	r := Result{Stable: float64(under) <= max(rate, 50)}
	for _, all := range append([]*resource{server, certpost}, connectionsOf(relays)...) {
		r.Busiest = max(r.Busiest, all.used/s.now/float64(all.servers))
	}
	if len(took) > 0 {
		slices.Sort(took)
		r.P50, r.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return r
}

func connectionsOf(relays []struct{ workers, connections *resource }) (all []*resource) {
	for _, r := range relays {
		all = append(all, r.connections)
	}
	return all
}
