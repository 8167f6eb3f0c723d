import { performance } from 'node:perf_hooks'
import { uuidv7 } from 'uuidv7'
import type { Epoch, HistoryId, ShardName, TenantName, TransactionId } from '../dist/directory/topology.js'
import { hlcFromWallMs } from '../dist/hlc/hlc.js'
import { parseLsn } from '../dist/postgres/lsn.js'
import { emptyFrontier, type Frontier } from '../dist/session/frontier.js'
import { advanceByBranch, advanceByCommit, tokenLifetimeMsDefault } from '../dist/session/session.js'
import { shardsByRef } from '../dist/session/shard-refs.js'
import { decodeToken, encodeToken } from '../dist/session/token.js'
import { atLeast, atMost, type Figure, median } from './figure.ts'
import { tenant } from './stand.ts'

/** What tokens cost: those that a client has after one global transaction that its participants have not settled yet. */

const shards = ['eu-west/payroll', 'us-east/treasury', 'eu-central/payroll', 'eu-central/ledger'] as ShardName[]
const warmUpMs = 2_000
const windowMs = 1_000
const windows = 5
const roundsBetweenLooks = 200

const ring = { current: 1, keys: new Map([[1, new Uint8Array(32).fill(1)]]) }
const scope = { fleet: 'bench', tenant: tenant as TenantName, credential: 'manager@globex.example' }

export function tokenFigures(progress: (text: string) => void): Figure[] {
  progress('tokens')
  const nowMs = Date.now()
  const ofTwo = afterGlobalCommit(shards.slice(0, 2), nowMs)
  const check = { nowMs, maxClockOffsetMs: 500, shards: shardsByRef(shards) }
  const seal = (frontier: Frontier) => encodeToken(frontier, ring, scope, { nowMs, lifetimeMs: tokenLifetimeMsDefault })
  const both = () => void decodeToken(seal(ofTwo), ring, scope, check)
  perSecond(both, warmUpMs)
  const rates = Array.from({ length: windows }, () => perSecond(both, windowMs))
  return [
    atLeast('token encode and verify per second', median(rates), 'tokens of two shards, both in turn', 100_000),
    atMost(
      'token bytes with four shards',
      seal(afterGlobalCommit(shards, nowMs)).length,
      'bytes of text, one global transaction',
      300,
    ),
  ]
}

/** The values are those of a fleet that has run for a while: some terabytes of log, a placement that has moved. */
function afterGlobalCommit([home, ...participants]: readonly ShardName[], nowMs: number): Frontier {
  if (home === undefined) throw new Error('a transaction has a home')
  const transactionId = uuidv7() as TransactionId
  const commitTimestamp = hlcFromWallMs(nowMs)
  const position = parseLsn('6E0/B374D848')
  const met = (shard: ShardName) => ({
    shard,
    historyId: uuidv7() as HistoryId,
    epoch: 17 as Epoch,
    placementVersion: 31,
    transactionId,
    commitTimestamp,
  })
  return participants.reduce(
    (frontier, shard) => advanceByBranch(frontier, { ...met(shard), flushedAfterPrepare: position }),
    advanceByCommit(emptyFrontier, { ...met(home), flushedAfterCommit: position }),
  )
}

function perSecond(run: () => void, forMs: number): number {
  const started = performance.now()
  let times = 0
  while (performance.now() - started < forMs) {
    for (let round = 0; round < roundsBetweenLooks; round++) run()
    times += roundsBetweenLooks
  }
  return (times * 1_000) / (performance.now() - started)
}
