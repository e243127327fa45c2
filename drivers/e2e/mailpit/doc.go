// Package mailpit has the version of github.com/axllent/mailpit that the tests of
// drivers/smtp run. Its go.mod says so: go tool mailpit.
package mailpit
