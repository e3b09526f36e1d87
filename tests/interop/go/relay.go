// What a go-libp2p peer does with relays, hole punching and dial-backs: for the role `relay`, which relays and dials
// back for others, and the roles `hidden` and `punching`, which are reached through relays.
package main

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const (
	roleRelay    = "relay"
	roleHidden   = "hidden"
	rolePunching = "punching"
)

func roleOptions(role string) []libp2p.Option {
	switch role {
	case roleRelay:
		return []libp2p.Option{
			libp2p.EnableRelay(), libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic(),
		}
	case roleHidden, rolePunching:
		return []libp2p.Option{libp2p.EnableRelay()}
	}
	return []libp2p.Option{libp2p.DisableRelay()}
}

// withDialBacks has the peer serve AutoNAT v2 and ask others by it; here everything is at a loopback address.
func (it *steered) withDialBacks() error {
	dialer, err := libp2p.New(
		libp2p.NoListenAddrs,
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableRelay(),
	)
	if err != nil {
		return err
	}
	if it.autonat, err = autonatv2.New(dialer, autonatv2.AllowPrivateAddrs); err != nil {
		return err
	}
	return it.autonat.Start(it.host)
}

// withHolePunching has the peer make relayed connections direct; it tells others its loopback addresses.
func (it *steered) withHolePunching() error {
	asker, ok := it.host.(interface{ IDService() identify.IDService })
	if !ok {
		return fmt.Errorf("the host has no identify")
	}
	_, err := holepunch.NewService(it.host, asker.IDService(), func() []multiaddr.Multiaddr {
		direct := []multiaddr.Multiaddr{}
		for _, address := range it.host.Addrs() {
			if _, err := address.ValueForProtocol(multiaddr.P_CIRCUIT); err != nil {
				direct = append(direct, address)
			}
		}
		return direct
	})
	return err
}

func (it *steered) aboutRelays(ctx context.Context, told order, who peer.ID) (any, error) {
	switch told.Do {
	case "reserve":
		info, err := peer.AddrInfoFromString(told.Address)
		if err != nil {
			return nil, err
		}
		place, err := client.Reserve(ctx, it.host, *info)
		if err != nil {
			return nil, err
		}
		addresses := []string{}
		for _, address := range place.Addrs {
			addresses = append(addresses, address.String())
		}
		found := map[string]any{
			"expires": place.Expiration.Unix(), "addresses": addresses,
			"seconds": place.LimitDuration.Seconds(), "bytes": place.LimitData,
		}
		if place.Voucher != nil {
			found["voucher"] = []string{place.Voucher.Relay.String(), place.Voucher.Peer.String()}
		}
		return found, nil
	case "limited":
		found := []bool{}
		for _, connection := range it.host.Network().ConnsToPeer(who) {
			found = append(found, connection.Stat().Limited)
		}
		return found, nil
	case "reachable":
		address, err := multiaddr.NewMultiaddr(told.Address)
		if err != nil {
			return nil, err
		}
		result, err := it.autonat.GetReachability(ctx, []autonatv2.Request{{Addr: address, SendDialData: true}})
		if err != nil {
			return nil, err
		}
		return fmt.Sprint(result.Reachability), nil
	}
	return nil, fmt.Errorf("%q is nothing that this peer can do", told.Do)
}
