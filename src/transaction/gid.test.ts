import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { formatGid, parseGid } from './gid.ts'

const shard = fc.stringMatching(/^[a-z_-]{1,12}\/[a-z_0-9-]{1,12}$/).map((name) => name as ShardName)
const id = fc.uuid({ version: 7 }).map((text) => text as TransactionId)
const fleet = fc.stringMatching(/^[a-z_]{1,12}$/)

describe('the name of a branch', () => {
  it('comes back whole, whatever separators the names contain', () => {
    fc.assert(
      fc.property(fleet, shard, id, shard, (name, home, transactionId, participant) => {
        const branch = { home, transactionId, participant }
        expect(parseGid(formatGid(name, branch), name, participant)).toEqual(branch)
      }),
    )
  })

  it('of something else is not taken for one', () => {
    const participant = 'us-east/treasury' as ShardName
    const gids = [
      '',
      'hf_test_',
      'other',
      `hf_test_eu/x_${participant}`,
      `hf_test__0195_${participant}`,
      'hf_test_us-east/treasury',
    ]
    for (const gid of gids) expect(parseGid(gid, 'test', participant)).toBeUndefined()
  })
})
