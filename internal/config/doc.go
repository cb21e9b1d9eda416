// Package config reads strict YAML into structs: every problem at once, each
// with its line and column, and nothing ignored in silence.
package config
