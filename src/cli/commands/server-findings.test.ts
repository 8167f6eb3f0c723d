import { expect, test } from 'vitest'
import { nodeSettings } from '../../fleet/node-settings.ts'
import type { ServerSettings } from '../../fleet/server-settings.ts'
import { connectionFindings, settingFindings } from './server-findings.ts'

const ours: ServerSettings = {
  node: 'eu-west/payroll.1',
  isFollowerFedBack: true,
  standbyStreamingDelayMs: 1_000,
  standbyArchiveDelayMs: 1_000,
  idleInTransactionMs: 60_000,
  connectionCheckMs: 5_000,
  connectionsMax: 200,
  connectionsReserved: 3,
}

/** What PostgreSQL comes with. */
const untouched: ServerSettings = {
  ...ours,
  node: 'eu-west/payroll.2',
  isFollowerFedBack: false,
  standbyStreamingDelayMs: 30_000,
  standbyArchiveDelayMs: 30_000,
  idleInTransactionMs: 0,
  connectionCheckMs: 0,
  connectionsMax: 100,
}

const told = (server: ServerSettings) => settingFindings([server]).map(({ detail }) => detail.split(' at ')[0])

test('what an embedded fleet sets is what is asked of others', () => {
  expect(nodeSettings(18)).toMatchObject({
    hot_standby_feedback: true,
    max_standby_streaming_delay: '1s',
    max_standby_archive_delay: '1s',
    idle_in_transaction_session_timeout: '60s',
    client_connection_check_interval: '5s',
    max_connections: ours.connectionsMax,
  })
  expect(settingFindings([ours])).toEqual([])
})

test('a setting that is otherwise is told with what to set, and where', () => {
  expect(told(untouched)).toEqual([
    'set hot_standby_feedback to on',
    'set max_standby_streaming_delay to 1s or less',
    'set max_standby_archive_delay to 1s or less',
    'set idle_in_transaction_session_timeout to 60s or less',
    'set client_connection_check_interval to 5s or less',
  ])
  const [first] = settingFindings([ours, untouched, { ...untouched, node: 'eu-west/payroll.3' }])
  expect(first).toMatchObject({ what: 'settings', status: 'warning' })
  expect(first?.detail).toContain('to on at eu-west/payroll.2, eu-west/payroll.3: ')
})

test.each<[string, Partial<ServerSettings>]>([
  ['max_standby_streaming_delay', { standbyStreamingDelayMs: -1 }],
  ['max_standby_archive_delay', { standbyArchiveDelayMs: 1_001 }],
  ['idle_in_transaction_session_timeout', { idleInTransactionMs: 60_001 }],
  ['client_connection_check_interval', { connectionCheckMs: 5_001 }],
])('%s without a bound, or with a later one, is told alone', (setting, otherwise) => {
  expect(told({ ...ours, ...otherwise })).toEqual([expect.stringContaining(setting)])
})

test('a delay of 0 makes nobody wait', () => {
  expect(told({ ...ours, standbyStreamingDelayMs: 0, standbyArchiveDelayMs: 0 })).toEqual([])
})

test('a server has room for what its gateways take at most, or is told how much it needs', () => {
  // 42 and 5 of each gateway, and 8 beside them; 3 of all are not theirs.
  expect(connectionFindings([ours], 4)).toEqual([])
  const detail =
    '5 gateways take up to 243 connections of eu-west/payroll.1, which has 197 for them: ' +
    'set max_connections to 246 or more, on the followers of a shard first'
  expect(connectionFindings([ours], 5)).toEqual([{ what: 'connections', status: 'warning', detail }])
  expect(connectionFindings([{ ...ours, connectionsMax: 246 }], 5)).toEqual([])
})
