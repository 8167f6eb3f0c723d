import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ConnectionMeter } from './link-meter.ts'
import { LinkMeter } from './link-meter.ts'

/**
 * One connection, played by a script: `c` the client sends a piece, `>` the oldest piece reaches the server, `s` the
 * server sends a piece, `<` the oldest piece reaches the client. Spaces do not count.
 */
function roundTrips(script: string, meter = new LinkMeter()): number {
  const connection = meter.connect()
  connection.opened('')
  play(script, connection)
  return meter.counters().roundTrips
}

function play(script: string, connection: ConnectionMeter): void {
  const to: number[] = []
  const from: number[] = []
  for (const step of script.replaceAll(' ', '')) {
    if (step === 'c') to.push(connection.clientSent(1))
    if (step === 's') from.push(connection.serverSent())
    const level = step === '>' ? to.shift() : step === '<' ? from.shift() : undefined
    if (level === undefined) continue
    if (step === '>') connection.serverReceived(level)
    else connection.clientReceived(level, 1)
  }
}

describe('round trips are the longest chain of dependent messages', () => {
  test.each([
    ['a connection that says nothing', '', 0],
    ['a request and its answer', 'c> s<', 1],
    ['a request whose answer never comes', 'c>', 1],
    ['R1: a flight in three pieces', 'ccc >>> s<', 1],
    ['R1: a flight whose pieces travel apart', 'c>c>c> s<', 1],
    ['R1: a pipelined flight with an answer to each statement', 'ccc >s >s >s <<<', 1],
    ['R2: three requests, each after the answer before', 'c>s< c>s< c>s<', 3],
    ['R2: a second flight sent after the first part of the answer', 'c> ss < c < > s<', 2],
    ['a second flight that did not wait for the first', 'c c > s > s < <', 1],
    ['two flights that overlap after one answer', 'c> ss < c < c >> ss <<', 2],
    ['R3: a server that speaks first', 's<', 0],
    ['R3: a request after a greeting', 's< c> s<', 1],
    ['R3: what a server says unasked, answered by nobody', 'c>s< s< s< s<', 1],
    ['a stream with acknowledgements, as replication has', 'c> sss <c<c<c >>> sss <<<', 2],
  ])('%s', (_, script, expected) => {
    expect(roundTrips(script)).toBe(expected)
  })
})

const scripts = fc.array(fc.constantFrom('c', '>', 's', '<'), { maxLength: 60 }).map((steps) => steps.join(''))

/** The longest chain, searched for: which piece could have been caused by which. */
function longestChain(script: string): number {
  const to: number[] = []
  const from: number[] = []
  const atServer = [0]
  const atClient = [0]
  const sent = [0]
  for (const step of script) {
    if (step === 'c') {
      const chain = 1 + Math.max(...atClient)
      sent.push(chain)
      to.push(chain)
    }
    if (step === 's') from.push(Math.max(...atServer))
    if (step === '>') atServer.push(to.shift() ?? 0)
    if (step === '<') atClient.push(from.shift() ?? 0)
  }
  return Math.max(...sent)
}

test('the count is the longest chain in any order of events', () => {
  fc.assert(fc.property(scripts, (script) => roundTrips(script) === longestChain(script)))
})

test('connections are summed, each by itself', () => {
  const meter = new LinkMeter()
  roundTrips('c>s< c>s<', meter)
  roundTrips('c>s<', meter)
  expect(meter.counters()).toEqual({ connections: 2, roundTrips: 3, bytesTo: 3, bytesFrom: 3 })
})

test('connections are counted by the names that they gave', () => {
  const meter = new LinkMeter()
  for (const name of ['gateway', 'resolver', 'gateway']) {
    const connection = meter.connect()
    connection.opened(name)
    play('c>s<', connection)
  }
  expect(meter.byApplication().get('gateway')).toEqual({ connections: 2, roundTrips: 2, bytesTo: 2, bytesFrom: 2 })
  expect(meter.byApplication().get('resolver')?.roundTrips).toBe(1)
  expect(meter.counters().roundTrips).toBe(3)
})

test('a reset does not count again what was under way', () => {
  const meter = new LinkMeter()
  const connection = meter.connect()
  const level = connection.clientSent(1)
  meter.reset()
  connection.clientSent(1)
  connection.serverReceived(level)
  connection.clientReceived(connection.serverSent(), 1)
  expect(meter.counters()).toEqual({ connections: 0, roundTrips: 0, bytesTo: 1, bytesFrom: 1 })
  connection.clientSent(1)
  expect(meter.counters().roundTrips).toBe(1)
})
