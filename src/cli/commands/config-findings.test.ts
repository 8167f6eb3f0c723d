import { expect, test } from 'vitest'
import type { ConfigReference, FleetConfigInput } from '../../fleet/config.ts'
import { changeFindings } from './config-findings.ts'

const source: FleetConfigInput = {
  fleet: 'small',
  regions: { eu: { jurisdiction: 'EU' } },
  shards: { 'eu/only': { followers: ['eu', 'eu'] } },
}
const given = (by: FleetConfigInput): ConfigReference => ({ source: by, baseDir: '/srv', file: '/srv/holdfast.yaml' })

test('a file that says something else than what the fleet was started with is told, with the keys', () => {
  const other = { ...source, shards: { 'eu/only': { followers: ['eu'] } }, invariants: './invariants' }
  expect(changeFindings(given(source), given(other))).toEqual([
    {
      what: 'configuration',
      status: 'warning',
      detail:
        '/srv/holdfast.yaml has changed in shards, invariants since the fleet was started: the next start goes by it',
    },
  ])
})

test('one that says the same is not', () => {
  expect(changeFindings(given(source), given(structuredClone(source)))).toEqual([])
})
