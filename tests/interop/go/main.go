// A go-libp2p peer, steered by JSON lines: {"id", "do", ...} in, {"id", "ok"} or {"id", "error"} out.
//
//	peer <secp256k1|ed25519> <secret in hex> <network> [relay|hidden|punching]
//
// The first line out says who and where it is. What it can do is in `actions`.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const (
	echoProtocol = "/interop/echo/1"
	namespace    = "golem-p2p"
	patience     = 40 * time.Second
)

type order struct {
	ID      int    `json:"id"`
	Do      string `json:"do"`
	Address string `json:"address"`
	Peer    string `json:"peer"`
	Bytes   int    `json:"bytes"`
	Topic   string `json:"topic"`
	Data    []byte `json:"data"`
	Key     []byte `json:"key"`
	Value   []byte `json:"value"`
}

// anyRecord takes every record of our namespace: what is in one is not this peer's to judge.
type anyRecord struct{}

func (anyRecord) Validate(string, []byte) error        { return nil }
func (anyRecord) Select(string, [][]byte) (int, error) { return 0, nil }

type steered struct {
	host   host.Host
	pubsub *pubsub.PubSub
	dht    *dht.IpfsDHT
	// autonat is for those with a role; see relay.go.
	autonat *autonatv2.AutoNAT
	mutex   sync.Mutex
	topics  map[string]*topic
}

type topic struct {
	*pubsub.Topic
	subscription *pubsub.Subscription
}

func main() {
	kind, secret, overlay := os.Args[1], os.Args[2], os.Args[3]
	key, err := privateKey(kind, secret)
	check(err)
	role := ""
	if len(os.Args) > 4 {
		role = os.Args[4]
	}
	options := append(roleOptions(role),
		libp2p.Identity(key),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.UserAgent("interop go"),
	)
	node, err := libp2p.New(options...)
	check(err)
	gossip, err := pubsub.NewGossipSub(context.Background(), node)
	check(err)
	table, err := dht.New(
		node,
		dht.ProtocolPrefix(protocol.ID("/golem-p2p/"+overlay)),
		dht.Mode(dht.ModeServer),
		dht.NamespacedValidator(namespace, anyRecord{}),
		dht.AddressFilter(func(all []multiaddr.Multiaddr) []multiaddr.Multiaddr { return all }),
	)
	check(err)
	node.SetStreamHandler(echoProtocol, func(stream network.Stream) {
		if _, err := io.Copy(stream, stream); err != nil {
			_ = stream.Reset()
			return
		}
		_ = stream.Close()
	})
	it := &steered{host: node, pubsub: gossip, dht: table, topics: map[string]*topic{}}
	if role != "" {
		check(it.withDialBacks())
	}
	if role == rolePunching {
		check(it.withHolePunching())
	}
	var writing sync.Mutex
	say := func(message any) {
		line, err := json.Marshal(message)
		check(err)
		writing.Lock()
		defer writing.Unlock()
		fmt.Printf("%s\n", line)
	}
	say(map[string]string{
		"peer":    node.ID().String(),
		"address": fmt.Sprintf("%s/p2p/%s", node.Addrs()[0], node.ID()),
	})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var told order
		check(json.Unmarshal(lines.Bytes(), &told))
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			ctx = network.WithAllowLimitedConn(ctx, "a relayed connection will do")
			ok, err := it.carryOut(ctx, told)
			if err != nil {
				say(map[string]any{"id": told.ID, "error": err.Error()})
				return
			}
			say(map[string]any{"id": told.ID, "ok": ok})
		}()
	}
}

func (it *steered) carryOut(ctx context.Context, told order) (any, error) {
	var who peer.ID
	if told.Peer != "" {
		var err error
		if who, err = peer.Decode(told.Peer); err != nil {
			return nil, err
		}
	}
	switch told.Do {
	case "dial":
		info, err := peer.AddrInfoFromString(told.Address)
		if err != nil {
			return nil, err
		}
		return info.ID.String(), it.host.Connect(ctx, *info)
	case "ping":
		answer := <-ping.Ping(ctx, it.host, who)
		return answer.RTT.Milliseconds(), answer.Error
	case "identify":
		return it.identify(ctx, who)
	case "echo":
		return it.echo(ctx, who, told.Bytes)
	case "join":
		_, err := it.join(told.Topic)
		return nil, err
	case "mesh":
		found := []string{}
		for _, one := range it.pubsub.ListPeers(told.Topic) {
			found = append(found, one.String())
		}
		return found, nil
	case "publish":
		joined, err := it.join(told.Topic)
		if err != nil {
			return nil, err
		}
		return nil, joined.Publish(ctx, told.Data)
	case "heard":
		joined, err := it.join(told.Topic)
		if err != nil {
			return nil, err
		}
		message, err := joined.subscription.Next(ctx)
		if err != nil {
			return nil, err
		}
		data := base64.StdEncoding.EncodeToString(message.Data)
		return map[string]string{"data": data, "from": message.GetFrom().String()}, nil
	case "put":
		return nil, it.dht.PutValue(ctx, string(told.Key), told.Value)
	case "get":
		value, err := it.dht.GetValue(ctx, string(told.Key), dht.Quorum(1))
		return value, err
	case "findPeer":
		info, err := it.dht.FindPeer(ctx, who)
		if err != nil {
			return nil, err
		}
		addresses := []string{}
		for _, address := range info.Addrs {
			addresses = append(addresses, address.String())
		}
		return addresses, nil
	case "peers":
		found := []string{}
		for _, one := range it.host.Network().Peers() {
			found = append(found, one.String())
		}
		return found, nil
	case "hangUp":
		return nil, it.host.Network().ClosePeer(who)
	}
	return it.aboutRelays(ctx, told, who)
}

// identify waits for what the host has asked by itself when the connection was made.
func (it *steered) identify(ctx context.Context, who peer.ID) (any, error) {
	connections := it.host.Network().ConnsToPeer(who)
	if len(connections) == 0 {
		return nil, fmt.Errorf("there is no connection with %s", who)
	}
	asker, ok := it.host.(interface{ IDService() identify.IDService })
	if ok {
		select {
		case <-asker.IDService().IdentifyWait(connections[0]):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	protocols, err := it.host.Peerstore().GetProtocols(who)
	if err != nil {
		return nil, err
	}
	agent, err := it.host.Peerstore().Get(who, "AgentVersion")
	return map[string]any{"protocols": protocols, "agent": agent}, err
}

func (it *steered) echo(ctx context.Context, who peer.ID, size int) (any, error) {
	stream, err := it.host.NewStream(ctx, who, echoProtocol)
	if err != nil {
		return nil, err
	}
	sent := make(chan error, 1)
	go func() {
		data := make([]byte, size)
		for at := range data {
			data[at] = byte(at*31 + at>>8)
		}
		if _, err := io.Copy(stream, bytes.NewReader(data)); err != nil {
			sent <- err
			return
		}
		sent <- stream.CloseWrite()
	}()
	heard := sha256.New()
	if _, err := io.Copy(heard, stream); err != nil {
		return nil, err
	}
	return hex.EncodeToString(heard.Sum(nil)), <-sent
}

func (it *steered) join(name string) (*topic, error) {
	it.mutex.Lock()
	defer it.mutex.Unlock()
	if known := it.topics[name]; known != nil {
		return known, nil
	}
	joined, err := it.pubsub.Join(name)
	if err != nil {
		return nil, err
	}
	subscription, err := joined.Subscribe()
	if err != nil {
		return nil, err
	}
	it.topics[name] = &topic{joined, subscription}
	return it.topics[name], nil
}

func privateKey(kind, secret string) (crypto.PrivKey, error) {
	raw, err := hex.DecodeString(secret)
	if err != nil {
		return nil, err
	}
	if kind == "ed25519" {
		return crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(raw))
	}
	return crypto.UnmarshalSecp256k1PrivateKey(raw)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
