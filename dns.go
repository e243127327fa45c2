package eventloop

import (
	"context"
	"net"
)

// dialContext connects for Dial.
func (l *Loop) dialContext(ctx context.Context, network, address string, cfg *ConnConfig) (net.Conn, error) {
	d := net.Dialer{LocalAddr: cfg.LocalAddr}
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		if ctx.Err() != nil {
			err = contextError(ctx)
		}
		return nil, err
	}
	setTCPOptions(nc, cfg)
	return nc, nil
}
