import pg from 'pg'
import { expect, test } from 'vitest'
import { isHoldfastError } from '../base/errors.ts'
import type { FleetNode, NodeId, RegionName, ShardName } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import type { FailedAt, Leaving } from './read-failure.ts'
import { isLoss, leavingFor, NodeLost, toReadError, UnreadyNode } from './read-failure.ts'

const node: FleetNode = {
  id: 'eu-west/payroll.2' as NodeId,
  shard: 'eu-west/payroll' as ShardName,
  region: 'eu-west' as RegionName,
  role: 'follower',
  host: '/',
  port: 1,
}

function fromServer(code: string): pg.DatabaseError {
  const error = new pg.DatabaseError('as the server says', 0, 'error')
  error.code = code
  return error
}

const refused = (code: string) => new ServerError(fromServer(code))
const ended = (code: string) => new ConnectionLost('ended', true, fromServer(code))
const brokenOff = new ConnectionLost('cannot connect', false, new Error('refused'))

const places: readonly FailedAt[] = ['opening', 'statement of a follower', 'statement of a primary']

/** In the order of `places`. */
const table: readonly [string, Error, readonly (Leaving | undefined)[]][] = [
  ['40001', refused('40001'), ['conflict', 'conflict', undefined]],
  ['40P01', refused('40P01'), ['conflict', 'conflict', undefined]],
  ['40001 that ended the connection', ended('40001'), ['conflict', 'conflict', 'conflict']],
  ['57P01', ended('57P01'), ['lost', 'lost', 'lost']],
  ['57P02', ended('57P02'), ['lost', 'lost', 'lost']],
  ['57P03', refused('57P03'), ['lost', 'exhausted', 'exhausted']],
  ['28000', refused('28000'), ['lost', 'exhausted', 'exhausted']],
  ['53300', refused('53300'), ['lost', 'exhausted', 'exhausted']],
  ['53200', refused('53200'), ['lost', 'exhausted', 'exhausted']],
  ['25P03', ended('25P03'), ['lost', undefined, undefined]],
  ['57014', refused('57014'), ['unready', undefined, undefined]],
  ['a database that is not there', refused('3D000'), ['unready', undefined, undefined]],
  ['a table that is not there', refused('42P01'), ['unready', undefined, undefined]],
  ['another shard', new UnreadyNode('it is of another'), ['unready', 'unready', 'unready']],
  ['26000', refused('26000'), ['outdated', 'outdated', 'outdated']],
  ['a broken connection', brokenOff, ['lost', 'lost', 'lost']],
  ['a bug', new Error('assertion failed'), [undefined, undefined, undefined]],
]

test.each(table)('R12: %s', (_, error, expected) => {
  expect(places.map((at) => leavingFor(error, at))).toEqual(expected)
})

test('R12: only what says that the node is away makes others leave it', () => {
  const all: readonly Leaving[] = ['lost', 'conflict', 'exhausted', 'busy', 'promoted', 'outdated', 'unready']
  expect(all.filter(isLoss)).toEqual(['lost', 'unready'])
})

test('R13: a conflict is told without its SQLSTATE, with what the server said as the cause', () => {
  const error = toReadError(new NodeLost(node, 'conflict', refused('40001')), node)
  expect(isHoldfastError(error, 'node_unavailable')).toBe(true)
  expect(error).toMatchObject({ retry: 'safe', detail: { node: node.id, why: 'conflict', retryAfterMs: 25 } })
  const { message, hint, detail } = error as { message: string; hint: string; detail: unknown }
  expect(JSON.stringify([message, hint, detail])).not.toMatch(/40001|as the server says/)
})

test('a read whose function asked nothing for too long is told so', () => {
  const error = toReadError(ended('25P03'), node)
  expect(error).toMatchObject({
    code: 'statement_timeout',
    message: expect.stringContaining('asked nothing for too long'),
  })
})
