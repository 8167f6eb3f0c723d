import { describe, expect, test } from 'vitest'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { hlcFromWallMs, hlcZero, toHlc } from '../hlc/hlc.ts'
import { ClockReadings } from './clock-readings.ts'

const nowMs = 1_775_000_000_000
const now = hlcFromWallMs(nowMs)
const payroll = { name: 'eu-west/payroll' as ShardName, primary: { id: 'eu-west/payroll.1' as NodeId } }
const promoted = { ...payroll, primary: { id: 'eu-west/payroll.2' as NodeId } }

describe('a clock need not be approached', () => {
  test('once it was heard at or past the frontier', () => {
    const clocks = new ClockReadings()
    expect(clocks.isPast(payroll, hlcZero, nowMs)).toBe(false)
    clocks.note(payroll, now)
    expect(clocks.isPast(payroll, now, nowMs)).toBe(true)
    expect(clocks.isPast(payroll, toHlc(now + 1n), nowMs)).toBe(false)
  })

  test('unless it seems to stand still by now', () => {
    const clocks = new ClockReadings()
    clocks.note(payroll, now)
    expect(clocks.isPast(payroll, now, nowMs + 50)).toBe(true)
    expect(clocks.isPast(payroll, now, nowMs + 51)).toBe(false)
  })

  test('and an answer that comes late does not take a later one back', () => {
    const clocks = new ClockReadings()
    clocks.note(payroll, now)
    clocks.note(payroll, toHlc(now - 1n))
    expect(clocks.isPast(payroll, now, nowMs)).toBe(true)
  })

  test('but another primary has a clock of its own, and a failure puts what was heard in doubt', () => {
    const clocks = new ClockReadings()
    clocks.note(payroll, now)
    expect(clocks.isPast(promoted, now, nowMs)).toBe(false)
    clocks.note(promoted, toHlc(now - 1n))
    expect(clocks.isPast(promoted, now, nowMs)).toBe(false)
    clocks.note(promoted, now)
    clocks.forget(promoted)
    expect(clocks.isPast(promoted, now, nowMs)).toBe(false)
  })
})
