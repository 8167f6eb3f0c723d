import { describe, expect, test } from 'vitest'
import type { Epoch, NodeId, ShardName } from '../directory/topology.ts'
import { CollectionDrains } from './collection-drains.ts'

const shard = { name: 'eu-west/payroll' as ShardName, epoch: 1 as Epoch, primary: { id: 'eu-west-1' as NodeId } }

/** A look has found that `first` is open, and `second` has begun since. */
function begun(): CollectionDrains {
  const drains = new CollectionDrains()
  expect(drains.narrow(shard, 10, ['first'])).toBe(false)
  expect(drains.narrow(shard, 10, ['first', 'second'])).toBe(false)
  return drains
}

describe('who began behind a watermark', () => {
  test('is not waited for, for it or for a lower one', () => {
    expect(begun().narrow(shard, 10, ['second'])).toBe(true)
    expect(begun().narrow(shard, 9, ['second'])).toBe(true)
  })

  test('is waited for where that may not be seen: for a higher one, by another primary, in another epoch', () => {
    expect(begun().narrow(shard, 11, ['second'])).toBe(false)
    expect(begun().narrow({ ...shard, primary: { id: 'eu-west-2' as NodeId } }, 10, ['second'])).toBe(false)
    expect(begun().narrow({ ...shard, epoch: 2 as Epoch }, 10, ['second'])).toBe(false)
    expect(begun().narrow({ ...shard, name: 'us-east/treasury' as ShardName }, 10, ['second'])).toBe(false)
  })
})

test('an aim stays until it has shown all that it can, and a page that ends below it lowers it', () => {
  const drains = new CollectionDrains()
  expect([drains.aim(10), drains.aim(20), drains.aim(5), drains.aim(20)]).toEqual([10, 10, 5, 5])
  drains.endAim()
  expect(drains.aim(20)).toBe(20)
})
