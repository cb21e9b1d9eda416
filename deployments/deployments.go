// Package deployments holds what runs Certpost elsewhere than by hand: alerts and a dashboard
// for monitoring, units, images and packages. It has no code; its tests check the files with
// the programs that will read them.
package deployments
