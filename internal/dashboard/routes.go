package dashboard

import "github.com/certpost/certpost/internal/access"

// routes are all pages. GET changes nothing; a successful POST redirects to a page that
// shows the outcome, except for the checks, which respond with their findings.
func (p *pages) routes() []route {
	return []route{
		{"GET /{$}", access.Viewer, p.overview},

		{"GET /dead-letters", access.Viewer, p.letters},
		{"GET /dead-letters/news", access.Viewer, p.news},
		{"GET /dead-letters/groups/{fingerprint}", access.Viewer, p.group},
		{"POST /dead-letters/groups/{fingerprint}/handling", access.Operator, p.handle},
		{"GET /dead-letters/{number}", access.Viewer, p.letter},
		{"GET /dead-letters/confirm", access.Operator, p.confirm},
		{"POST /dead-letters/bulk", access.Operator, p.bulk},
		{"POST /dead-letters/undo", access.Operator, p.undo},
		{"POST /dead-letters/preflight", access.Operator, p.preflightMany},
		{"POST /dead-letters/{number}/replay", access.Operator, p.replay},
		{"POST /dead-letters/{number}/discard", access.Operator, p.discard},
		{"POST /dead-letters/{number}/restore", access.Operator, p.restore},
		{"POST /dead-letters/{number}/hold", access.Operator, p.hold},
		{"POST /dead-letters/{number}/release", access.Operator, p.release},
		{"POST /dead-letters/{number}/preflight", access.Operator, p.preflight},

		{"GET /replays", access.Viewer, p.replays},
		{"GET /replays/{id}", access.Viewer, p.run},
		{"POST /replays/{id}/pause", access.Operator, p.pauseRun},
		{"POST /replays/{id}/resume", access.Operator, p.resumeRun},
		{"POST /replays/{id}/cancel", access.Operator, p.cancelRun},

		{"GET /deliveries", access.Viewer, p.deliveries},
		{"GET /deliveries/confirm", access.Operator, p.confirmWaiting},
		{"POST /deliveries/bulk", access.Operator, p.actOnWaiting},
		{"GET " + resendPath, access.Operator, p.confirmResend},
		{"POST " + resendPath, access.Operator, p.resendMany},
		{"POST " + resendPreflightPath, access.Operator, p.preflightResend},
		{"GET /deliveries/who", access.Viewer, p.who},
		{"GET /deliveries/{target}/{event}", access.Viewer, p.delivery},
		{"POST /deliveries/{target}/{event}/retry", access.Operator, p.retryNow},
		{"POST /deliveries/{target}/{event}/cancel", access.Operator, p.cancel},
		{"POST /deliveries/{target}/{event}/resend", access.Operator, p.resend},
		{"POST /deliveries/{target}/{event}/rollback", access.Operator, p.rollBack},

		{"GET /targets", access.Viewer, p.targets},
		{"GET /targets/{id}", access.Viewer, p.target},
		{"GET /targets/{id}/mail", access.Viewer, p.mail},
		{"POST /targets/{id}/check", access.Operator, p.checkTarget},

		{"GET /relays", access.Viewer, p.relays},
		{"GET /relays/{lane}", access.Viewer, p.relay},
		{"POST /relays/{lane}/suspend", access.Operator, p.suspend},
		{"POST /relays/{lane}/resume", access.Operator, p.resume},

		{"GET /dead-letters/edit/{number}", access.Admin, p.editForm},
		{"POST /dead-letters/{number}/edit", access.Admin, p.editReplay},

		{"GET /audit", access.Viewer, p.history},
		{"GET /audit/news", access.Viewer, p.historyNews},

		{"GET /alerts", access.Viewer, p.alerts},
		{"POST /alerts/silence", access.Operator, p.silence},
		{"POST /alerts/unsilence", access.Operator, p.unsilence},

		{"GET /settings", access.Viewer, p.settings},
		{"POST /settings", access.Viewer, p.saveSettings},
		{"GET /keys", access.Viewer, p.keysPage},
	}
}
