// Package ext stands in for a package of Traefik's repository that is a module of its own there and is not published: what the
// paid editions add to the configuration, which is nothing here.
package ext

// HTTP adds nothing to the HTTP configuration.
type HTTP struct{}

// Router adds nothing to a router.
type Router struct{}
